//! A box's outbox: an accepted event is owed, in its epoch and in its place.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use camnet::edge::outbox::{EpochStart, NewEvent, Store};
use camnet::journal::Journal;
use camnet::model::{BoxId, ClockQuality, ClockSource, EventData, Status, SyncState, Time};
use camnet::wire::{self, Decoded};

/// Small, so that many cuts fall on a new segment.
const SEGMENT_BYTES: u64 = 64 << 10;
const EVENTS_MAX: u64 = 100_000;
/// A new epoch begins after so many groups.
const EPOCH_GROUPS: u64 = 50;

const CLOCK: ClockQuality = ClockQuality {
    source: ClockSource::Box,
    sync: SyncState::Unknown,
    offset_ms: None,
    uncertainty_ms: None,
};

fn box_id() -> BoxId {
    BoxId::new("box-01").expect("a good id")
}

fn open(dir: &Path) -> anyhow::Result<Store> {
    let (journal, recovery) = Journal::open_with(dir, SEGMENT_BYTES)?;
    ensure!(recovery.damage.is_empty(), "damage: {:?}", recovery.damage);
    Ok(Store::over(journal, &box_id(), EpochStart::draw(Time::now(), CLOCK))?)
}

/// Event `n` says its number.
fn event(n: u64) -> NewEvent {
    let data = EventData::Status(Status::new(true, Some(n.to_string())));
    NewEvent { device: None, time: Time::now(), clock: CLOCK, data }
}

pub fn write(dir: &Path, events: u64, out: &mut dyn Write) -> anyhow::Result<i64> {
    let mut store = open(dir)?;
    let mut next = 0;
    let mut groups = 0;
    while next < events.min(EVENTS_MAX) {
        let first = next;
        next += 1 + first % 7;
        store.accept((first..next).map(event).collect())?;
        crate::acknowledge(out, first, next)?;
        groups += 1;
        if groups % EPOCH_GROUPS == 0 {
            store.begin(EpochStart::draw(Time::now(), CLOCK))?;
        }
    }
    Ok(next as i64 - 1)
}

pub fn verify(dir: &Path, last: i64) -> anyhow::Result<()> {
    let mut store = open(dir)?;
    let mut found = 0;
    let mut before = None;
    let owed: Vec<_> = store.owed().collect();
    for span in owed {
        ensure!(span.first == 1, "epoch {} begins with {}", span.epoch, span.first);
        let mut sequence = 1;
        while sequence <= span.last {
            let read = store.read((span.epoch, sequence), 500)?;
            ensure!(!read.is_empty(), "event {sequence} of epoch {} can't be read", span.epoch);
            for (at, json) in read {
                ensure!(at == sequence, "event {at} stands where {sequence} should");
                let decoded = wire::decode(&box_id(), &json).into_iter().next();
                let Some(Decoded::Event { event, .. }) = decoded else {
                    anyhow::bail!("event {sequence} of epoch {} is not one", span.epoch)
                };
                ensure!(
                    (event.epoch, event.sequence) == (span.epoch, sequence),
                    "an event in another's place"
                );
                match event.data {
                    EventData::Boot(boot) => {
                        let previous = boot.previous.map(|previous| (previous.epoch, previous.last_sequence));
                        ensure!(
                            sequence == 1 && previous == before,
                            "epoch {} follows {previous:?}",
                            span.epoch
                        );
                    }
                    EventData::Status(status) => {
                        let says = status.detail.unwrap_or_default();
                        ensure!(says == found.to_string(), "event {says} stands where {found} should");
                        found += 1;
                    }
                    other => anyhow::bail!("an event that nobody accepted: {other:?}"),
                }
                sequence += 1;
            }
        }
        before = Some((span.epoch, span.last));
    }
    ensure!(found > last, "{found} events are owed, 0 to {last} were accepted");
    store.accept(vec![event(found as u64)]).context("going on").map(drop)
}
