//! The hub's data directory: what the truth took is in it, and the index holds each event exactly once, whether it
//! caught up or had to be built anew.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use camnet::hub::catalog::embedded::{Embedded, Opened, Sizes};
use camnet::hub::catalog::{Catalog, EventQuery, Order, TimeRange};
use camnet::hub::indexer::Indexer;
use camnet::hub::truth::{Arrived, HubRecord, JournalTruth, Outcome, Truth};
use camnet::journal::Journal;
use camnet::model::{
    BoxId, ClockQuality, ClockSource, Epoch, Event, EventData, Source, Status, SyncState, Time,
};
use uuid::Uuid;

/// Small, so that many cuts fall on a new segment and on a run of the index that is being written.
const SEGMENT_BYTES: u64 = 256 << 10;
const SIZES: Sizes = Sizes { run_records: 500, scan_rows: 1_000_000 };
const EVENTS_MAX: u64 = 60_000;
const BOXES: u64 = 3;
const EPOCH: Epoch = Epoch(0xc0ffee);
/// The index is made safe on disk after so many batches.
const FLUSH_BATCHES: u64 = 20;

fn box_id(n: u64) -> BoxId {
    BoxId::new(format!("box-{:02}", n % BOXES)).expect("a good id")
}

/// Event `n`: boxes take turns, so each has a sequence without holes.
fn record(n: u64) -> HubRecord {
    let clock = ClockQuality {
        source: ClockSource::Box,
        sync: SyncState::Unknown,
        offset_ms: None,
        uncertainty_ms: None,
    };
    let time = Time::from_second(1_800_000_000 + n as i64).expect("a good time");
    let event = Event {
        id: Uuid::from_u128(u128::from(n) + 1),
        source: Source::of_box(&box_id(n)),
        epoch: EPOCH,
        sequence: n / BOXES + 1,
        time,
        clock,
        data: EventData::Status(Status::new(true, Some(n.to_string()))),
    };
    HubRecord::Event(Arrived::of(event, time))
}

fn open(dir: &Path) -> anyhow::Result<(JournalTruth, Arc<Embedded>, Opened)> {
    let (journal, recovery) = Journal::open_with(&dir.join("journal"), SEGMENT_BYTES)?;
    ensure!(recovery.damage.is_empty(), "damage: {:?}", recovery.damage);
    let truth = JournalTruth::over(journal)?;
    let (catalog, opened) = Embedded::open_with(&dir.join("index"), &truth.records(), truth.next(), SIZES)?;
    let catalog = Arc::new(catalog);
    Indexer::new(truth.dir(), catalog.clone()).catch_up(truth.next(), |_, _| Ok(()))?;
    Ok((truth, catalog, opened))
}

pub fn write(dir: &Path, events: u64, out: &mut dyn Write) -> anyhow::Result<i64> {
    let (mut truth, catalog, _) = open(dir)?;
    let mut next = 0;
    let mut batches = 0;
    while next < events.min(EVENTS_MAX) {
        let first = next;
        next += 1 + first % 40;
        // A box that heard no receipt sends again what is known.
        let again = first.saturating_sub(5);
        let appended = truth.append((again..next).map(record).collect()).map_err(|error| error.source)?;
        let new = appended.outcomes.iter().filter(|&&outcome| outcome == Outcome::New).count() as u64;
        ensure!(new == next - first, "{new} of {} events are new", next - first);
        crate::acknowledge(out, first, next)?;
        catalog.apply(appended.first, &appended.written)?;
        batches += 1;
        if batches % FLUSH_BATCHES == 0 {
            catalog.flush()?;
        }
    }
    Ok(next as i64 - 1)
}

pub fn verify(dir: &Path, last: i64) -> anyhow::Result<()> {
    let (mut truth, catalog, opened) = open(dir)?;
    let found = truth.next();
    ensure!(found as i64 > last, "{found} events are there, 0 to {last} were acknowledged");
    ensure!(catalog.applied() == found, "the index stands at {} of {found}", catalog.applied());
    for n in 0..BOXES.min(found) {
        let receipt = truth.receipt(&box_id(n), EPOCH).context("no receipt")?;
        ensure!(receipt.missing.is_empty(), "{} lacks {:?}", box_id(n), receipt.missing);
    }
    let mut seen = HashSet::new();
    let range = TimeRange { from: Time::UNIX_EPOCH, to: Time::MAX };
    let mut query = EventQuery {
        kind: None,
        device: None,
        box_id: None,
        range,
        order: Order::Oldest,
        after: None,
        limit: 1000,
    };
    loop {
        let page = catalog.events(&query)?;
        for event in &page.events {
            let n = event.id.as_u128() as u64 - 1;
            ensure!(
                seen.insert(n) && n < found,
                "event {n} is in the index twice, or was never sent ({opened:?})"
            );
            let HubRecord::Event(sent) = record(n) else { anyhow::bail!("it makes only events") };
            ensure!(event.json == sent.json && event.box_id == sent.box_id, "event {n} is not what was sent");
        }
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    ensure!(seen.len() as u64 == found, "{} of {found} events are in the index ({opened:?})", seen.len());
    truth.append(vec![record(found)]).map_err(|error| error.source).context("going on").map(drop)
}
