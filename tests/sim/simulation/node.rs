//! A box: production's [`BoxSide`] on a disk in memory, and a camera. Drives, and decides nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use camnet::edge::outbox::{EpochStart, NewEvent, Store};
use camnet::edge::uplink::{BoxSide, Metrics};
use camnet::journal::disk::Disk;
use camnet::journal::sim_disk::SimDisk;
use camnet::journal::{Journal, Options};
use camnet::model::{
    BoxId, ClockQuality, ClockSource, Coverage, DeviceId, Epoch, EventData, GapCause, Ranges, SyncState, Time,
};
use camnet::mqtt::{OutMessage, PublishOutcome};
use camnet::wire::{BoxStatus, Receipt, Topic, TopicKind};
use uuid::Uuid;

use super::camera::{Camera, Ring, is_gap};
use super::mutation::{Lie, LyingDisk, Mutation};
use super::rng::Rng;

pub const CLOCK: ClockQuality = ClockQuality {
    source: ClockSource::Box,
    sync: SyncState::Unknown,
    offset_ms: None,
    uncertainty_ms: None,
};

/// When all that may be dropped is old.
fn in_years() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)
}

/// Small, so that segments roll and are dropped.
const SEGMENT_BYTES: u64 = 3_000;

/// What lies on the box's disk.
#[derive(Clone)]
pub struct Image {
    pub disk: SimDisk,
    pub ring: Ring,
}

pub struct Node {
    pub box_id: BoxId,
    pub device: DeviceId,
    pub disk: SimDisk,
    pub side: Option<BoxSide>,
    pub camera: Camera,
    /// Reports that the outbox has not taken yet, each with the id that it was last offered under.
    pub reports: Vec<Coverage>,
    pub connection: Option<u64>,
    pub reconnect_at: u64,
    pub connected_ms: u64,
    /// When it says its status again.
    pub status_at: u64,
    /// Down until then.
    pub start_at: u64,
    pub clock_ms: i64,
    /// Two live boxes use one epoch (a resumed snapshot, a bad random source).
    pub forced_epoch: Option<Epoch>,
    mutation: Option<Mutation>,
    metrics: Metrics,
    /// For the mutations.
    receipted: BTreeMap<Epoch, Ranges>,
    sent: BTreeMap<u64, (Epoch, u64)>,
    last_epoch: Option<Epoch>,
    was_up: bool,
}

/// What came of offering events to the outbox.
pub struct Accepted {
    pub ids: Vec<Uuid>,
    pub is_ok: bool,
    /// Epoch and first sequence, if it was taken.
    pub place: Option<(Epoch, u64)>,
    /// Epoch, and sequences at which it stands; or may stand on the disk, if it was not taken.
    pub may_stand: (Epoch, Ranges),
    pub messages: Vec<OutMessage>,
}

impl Node {
    pub fn new(name: &str, image: Image, mutation: Option<Mutation>, metrics: Metrics) -> Self {
        Self {
            box_id: BoxId::new(name).expect("a good name"),
            device: DeviceId::new(format!("cam-{name}")).expect("a good name"),
            disk: image.disk,
            side: None,
            camera: Camera::boot(image.ring, Time::UNIX_EPOCH).0,
            reports: Vec::new(),
            connection: None,
            reconnect_at: 0,
            connected_ms: 0,
            status_at: 0,
            start_at: 0,
            clock_ms: 0,
            forced_epoch: None,
            mutation,
            metrics,
            receipted: BTreeMap::new(),
            sent: BTreeMap::new(),
            last_epoch: None,
            was_up: false,
        }
    }

    /// Another box with the name and camera of this one.
    pub fn like(other: &Self, image: Image) -> Self {
        Self::new(other.box_id.as_str(), image, other.mutation, other.metrics.clone())
    }

    pub fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Starts the process. False if the disk does not let it.
    pub fn start(&mut self, rng: &mut Rng, now: Instant, time: Time) -> bool {
        let disk: Arc<dyn Disk> = match self.mutation {
            Some(Mutation::SyncSkippedOnBox) => Arc::new(LyingDisk(self.disk.disk(), Lie::Skips)),
            Some(Mutation::FailedSyncIsSuccessOnBox) => {
                Arc::new(LyingDisk(self.disk.disk(), Lie::HidesFailure))
            }
            _ => self.disk.disk(),
        };
        let options = Options { segment_bytes_max: SEGMENT_BYTES };
        let Ok((journal, _)) = Journal::open_on(disk, Path::new("/outbox"), options) else { return false };
        let mut start = EpochStart { epoch: Epoch(rng.next()), id: rng.uuid(), time, clock: CLOCK };
        if let Some(epoch) = self.forced_epoch.take() {
            start.epoch = epoch;
        }
        if let Some(epoch) = self.last_epoch.filter(|_| self.is(Mutation::EpochReused)) {
            start.epoch = epoch;
        }
        self.last_epoch = Some(start.epoch);
        let Ok(mut store) = Store::over(journal, &self.box_id, start) else { return false };
        if self.is(Mutation::OwedForgottenAtRestart) {
            let owed: Vec<_> = store.owed().filter(|span| span.epoch != store.epoch()).collect();
            for span in owed {
                let all = Receipt { epoch: span.epoch, upto: span.last, missing: vec![], refused: vec![] };
                let _ = store.receipt(&all);
            }
        }
        let mut side = BoxSide::new(self.box_id.clone(), store, self.metrics.clone(), now);
        if self.is(Mutation::OwedForgottenAtRestart) {
            side.drop_old(in_years());
        }
        self.side = Some(side);
        let (camera, reports) = Camera::boot(self.camera.ring.clone(), time);
        self.camera = camera;
        self.reports.clear();
        self.report(reports);
        true
    }

    /// The process is gone.
    pub fn stop(&mut self) {
        self.side = None;
        self.connection = None;
        self.sent.clear();
        self.was_up = false;
    }

    pub fn image(&self) -> Image {
        Image { disk: self.disk.image(), ring: self.camera.ring.clone() }
    }

    /// Reports of the camera: noted in the ring, then offered to the outbox until it takes them.
    pub fn report(&mut self, reports: Vec<Coverage>) {
        self.camera.note(&reports);
        self.reports.extend(reports);
    }

    /// The reports that wait, as events.
    pub fn take_reports(&mut self, time: Time) -> Vec<NewEvent> {
        let reports = std::mem::take(&mut self.reports);
        let told = reports.into_iter().filter(|report| match self.mutation {
            Some(Mutation::CoverageWithoutBoxOff) => !is_gap(report, Some(GapCause::BoxOff)),
            Some(Mutation::CoverageWithoutGapEnds) => report.open || !is_gap(report, None),
            _ => true,
        });
        told.map(|report| NewEvent {
            device: Some(self.device.clone()),
            time,
            clock: CLOCK,
            data: EventData::Coverage(report),
        })
        .collect()
    }

    /// Offers events to the outbox.
    pub fn accept(&mut self, events: Vec<(Uuid, NewEvent)>, now: Instant) -> Option<Accepted> {
        let side = self.side.as_mut()?;
        let ids: Vec<Uuid> = events.iter().map(|(id, _)| *id).collect();
        let before = side.newest();
        let (result, messages) = side.accept(events, now);
        let newest = side.newest();
        let place = result.is_ok().then(|| (newest.epoch, newest.last_sequence + 1 - ids.len() as u64));
        let (first, last) = match place {
            Some((_, first)) => (first, newest.last_sequence),
            None => (before.last_sequence + 1, newest.last_sequence + ids.len() as u64),
        };
        let may_stand = (newest.epoch, Ranges::of(first, last));
        let is_ok = result.is_ok() || self.is(Mutation::FailedAcceptIsOk);
        let messages = self.outgoing(messages);
        Some(Accepted { ids, is_ok, place, may_stand, messages })
    }

    pub fn link_up(&mut self, connection: u64, now: Instant) -> Vec<OutMessage> {
        let is_unaware = self.is(Mutation::NoResendAfterReconnect) && self.was_up;
        let Some(side) = &mut self.side else { return Vec::new() };
        self.connection = Some(connection);
        self.was_up = true;
        let messages = if is_unaware { side.status() } else { side.link_up(now) };
        self.outgoing(messages)
    }

    pub fn link_down(&mut self, now: Instant) {
        self.connection = None;
        if self.is(Mutation::NoResendAfterReconnect) {
            return;
        }
        self.sent.clear();
        if let Some(side) = &mut self.side {
            side.link_down(now);
        }
    }

    pub fn published(&mut self, token: u64, outcome: PublishOutcome, now: Instant) -> Vec<OutMessage> {
        let Some(side) = &mut self.side else { return Vec::new() };
        let mut messages = side.published(token, outcome.clone(), now);
        if self.mutation == Some(Mutation::ForgetOnPubAck)
            && outcome == PublishOutcome::Taken
            && let Some((epoch, last)) = self.sent.get(&token)
        {
            let forged = Receipt { epoch: *epoch, upto: *last, missing: vec![], refused: vec![] };
            let topic = Topic::new(&self.box_id, TopicKind::Receipt).to_string();
            messages.extend(side.message(&topic, &forged.to_json(), || unreachable!("no command"), now));
            side.drop_old(in_years());
        }
        self.outgoing(messages)
    }

    pub fn tick(&mut self, now: Instant, says_status: bool) -> Vec<OutMessage> {
        let is_mute = self.is(Mutation::NoResendAfterTimeout);
        let Some(side) = &mut self.side else { return Vec::new() };
        let mut messages = if is_mute { Vec::new() } else { side.tick(now) };
        if says_status {
            messages.extend(side.status());
        }
        self.outgoing(messages)
    }

    pub fn message(
        &mut self,
        topic: &str,
        payload: &[u8],
        rng: &mut Rng,
        time: Time,
        now: Instant,
    ) -> Vec<OutMessage> {
        let kind = topic.parse::<Topic>().expect("the hub's topics are good").kind;
        if kind == TopicKind::Command && self.is(Mutation::NewEpochIgnored) {
            return Vec::new();
        }
        let mut payload = payload.to_vec();
        if kind == TopicKind::Receipt {
            payload = self.mutate_receipt(payload);
        }
        let drops = self.is(Mutation::ReceiptedNotKept);
        let Some(side) = &mut self.side else { return Vec::new() };
        let draw = || EpochStart { epoch: Epoch(rng.next()), id: rng.uuid(), time, clock: CLOCK };
        let messages = side.message(topic, &payload, draw, now);
        if drops {
            side.drop_old(in_years());
        }
        self.outgoing(messages)
    }

    fn mutate_receipt(&mut self, payload: Vec<u8>) -> Vec<u8> {
        let Ok(mut receipt) = Receipt::from_json(&payload) else { return payload };
        match self.mutation {
            Some(Mutation::ReceiptIgnoresMissing) => receipt.missing.clear(),
            Some(Mutation::MissingOffByOne) => {
                receipt.missing.iter_mut().for_each(|range| range.0 += 1);
                receipt.missing.retain(|range| range.0 <= range.1);
            }
            Some(Mutation::BringBackIgnored) => {
                let known = self.receipted.entry(receipt.epoch).or_default();
                let mut missing = receipt.asked();
                missing.remove_all(known);
                known.insert_all(&receipt.covered());
                receipt.missing = missing.iter().collect();
            }
            _ => return payload,
        }
        receipt.to_json()
    }

    /// What goes out, as the mutation wants it.
    fn outgoing(&mut self, messages: Vec<OutMessage>) -> Vec<OutMessage> {
        let mut out = Vec::with_capacity(messages.len());
        for mut message in messages {
            if message.token > 0
                && let Some((_, range)) = message.user_properties.get(1)
                && let Some((_, last)) = range.split_once('-')
            {
                let epoch = message.user_properties[0].1.parse().expect("an epoch");
                self.sent.insert(message.token, (epoch, last.parse().expect("a sequence")));
            }
            match self.mutation {
                Some(Mutation::EpochsBeforeNotNamed) if message.retain => {
                    let mut status = BoxStatus::from_json(&message.payload).expect("our own words");
                    status.epochs.truncate(1);
                    message.payload = status.to_json();
                }
                Some(Mutation::EpochsBeforeNotNamed) => {
                    message.payload = without(&message.payload, br#""previous":{"#);
                }
                Some(Mutation::StatusWithoutEpochs) if message.retain => {
                    message.payload = br#"{"online":true}"#.to_vec();
                }
                _ => {}
            }
            out.push(message);
        }
        out
    }
}

/// Cuts `"previous":{…},` out of each boot event.
fn without(payload: &[u8], key: &[u8]) -> Vec<u8> {
    let mut left = payload.to_vec();
    while let Some(from) = left.windows(key.len()).position(|window| window == key) {
        let Some(length) = left[from..].windows(2).position(|window| window == b"},") else { break };
        left.drain(from..from + length + 2);
    }
    left
}
