//! What the index costs: rebuilds it from a journal of `CAMNET_BENCH_EVENTS` events (default a million), prints each
//! figure and appends it as a JSON line to target/bench.jsonl.
//!
//! `cargo bench --profile bench --no-default-features --features hub --bench index`; ten million take some minutes
//! and 4 GB of disk.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use camnet::hub::catalog::embedded::{Embedded, Sizes};
use camnet::hub::catalog::{Catalog, EventQuery, Order, TimeRange};
use camnet::hub::reindex::rebuild_offline;
use camnet::hub::truth::{Arrived, HubRecord, JournalTruth, Truth, TruthItem, TruthRecords};
use camnet::journal::Journal;
use camnet::model::{
    BoxId, ClockQuality, ClockSource, DeviceId, Epoch, Event, EventData, Lamp, LampReason, Motion,
    MotionPhase, Source, Status, SyncState, Time,
};
use serde_json::json;
use uuid::Uuid;

const BOXES: u64 = 1000;
const STEP: u64 = 1_000_000;

fn main() {
    let events = std::env::var("CAMNET_BENCH_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(STEP);
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::create_dir_all(&target).expect("target/ can be made");
    let dir = tempfile::tempdir_in(&target).expect("a folder beside the build");
    let json_bytes = make_journal(dir.path(), events);
    let journal_bytes = folder_bytes(&dir.path().join("journal"));
    let each = |bytes: u64| bytes as f64 / events as f64;
    println!(
        "{events} events of {:.0} bytes; the journal takes {:.0} each",
        each(json_bytes),
        each(journal_bytes)
    );

    let apply = apply_alone(dir.path(), events.min(STEP));
    figure("index.apply_cpu_us_per_event", apply, "us", None, "lower", events.min(STEP));

    let mut steps: Vec<(u64, f64, f64)> = Vec::new();
    let (began, cpu_before) = (Instant::now(), cpu_s("/proc/self/stat"));
    let records = rebuild_offline(dir.path(), Sizes::default(), |done, _| {
        if done / STEP > steps.len() as u64 {
            steps.push((done, began.elapsed().as_secs_f64(), rss_mb()));
            println!("  {done} records after {:.1} s, RSS {:.0} MB", steps[steps.len() - 1].1, rss_mb());
        }
        Ok(())
    });
    assert_eq!(records.expect("the index is rebuilt"), events);
    let took = began.elapsed().as_secs_f64();
    let cpu_us = (cpu_s("/proc/self/stat") - cpu_before) * 1e6 / events as f64;
    let index_bytes = folder_bytes(&dir.path().join("index"));
    figure("reindex.events_per_s", events as f64 / took, "events/s", Some(200_000.0), "higher", events);
    figure("reindex.cpu_us_per_event", cpu_us, "us", None, "lower", events);
    figure("index.disk_bytes_per_event", each(index_bytes), "B", None, "lower", events);
    figure("journal.disk_bytes_per_event", each(journal_bytes), "B", None, "lower", events);
    let both = each(index_bytes + journal_bytes);
    figure("ingest.disk_bytes_per_event", both, "B", Some(150.0), "lower", events);
    if let [first, .., before, last] = steps.as_slice() {
        let last_rate = (last.0 - before.0) as f64 / (last.1 - before.1);
        let first_rate = first.0 as f64 / first.1;
        figure("reindex.rate_last_over_first_1m", last_rate / first_rate, "", Some(0.9), "higher", events);
        figure("reindex.rss_growth_mb", last.2 - first.2, "MB", None, "lower", events);
    }
    questions(dir.path(), events);
}

/// Fills a journal as ingest does; returns the bytes of all events as JSON.
fn make_journal(dir: &Path, events: u64) -> u64 {
    let (mut truth, _) = JournalTruth::open(&dir.join("journal")).expect("a new journal");
    let mut json_bytes = 0;
    let began = Instant::now();
    let mut next = 0;
    while next < events {
        let upto = (next + 5000).min(events);
        let batch: Vec<HubRecord> = (next..upto).map(|n| HubRecord::Event(event(n))).collect();
        for record in &batch {
            let HubRecord::Event(arrived) = record else { continue };
            json_bytes += arrived.json.len() as u64;
        }
        truth.append(batch).expect("the journal takes it");
        next = upto;
    }
    println!("journal made in {:.1} s", began.elapsed().as_secs_f64());
    json_bytes
}

/// The n-th event of a thousand boxes with four devices each, five hundred events per second.
fn event(n: u64) -> Arrived {
    // A step that visits every box, in an order that looks random.
    let (turn, at) = (n / BOXES, n % BOXES);
    let of_box = (at * 619 + turn * 37) % BOXES;
    let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n << 21);
    let received = Time::from_microsecond(1_800_000_000_000_000 + 2000 * n as i64).expect("in range");
    let time = Time::from_microsecond(received.as_microsecond() - 3000 - (random % 250_000) as i64);
    let time = time.expect("in range");
    let box_id = BoxId::new(format!("box-{of_box:05}")).expect("an id");
    let device = DeviceId::new(format!("cam-{of_box:05}-{}", turn % 4)).expect("an id");
    let score = (random % 1000) as f64 / 1000.0;
    let id = Uuid::from_u128(
        ((received.as_millisecond() as u128) << 80) | 0x7000_8000_0000_0000_0000 | u128::from(random),
    );
    let data = match random % 10 {
        0..=5 => EventData::Motion(Motion {
            end: (!random.is_multiple_of(2)).then_some(received),
            ..Motion::new(
                Uuid::from_u64_pair(n / 2, !random),
                if random.is_multiple_of(2) { MotionPhase::Start } else { MotionPhase::End },
                time,
                score,
            )
        }),
        6..=8 => {
            let (circuit, power_w) = ((random % 16) as u16, 690.0 + 230.0 * score);
            EventData::Lamp(Lamp::new(circuit, LampReason::Heartbeat, true, 3.0 + score, power_w))
        }
        _ => EventData::Status(Status::new(true, None)),
    };
    let event = Event {
        id,
        source: Source::of_device(&box_id, &device),
        epoch: Epoch(0xfeed_0000_0000 + of_box),
        sequence: turn + 1,
        time,
        clock: ClockQuality {
            source: ClockSource::Box,
            sync: SyncState::Synced,
            offset_ms: None,
            uncertainty_ms: Some(40),
        },
        data,
    };
    Arrived::of(event, received)
}

/// CPU that applying alone costs, without reading the journal; microseconds per event.
fn apply_alone(dir: &Path, events: u64) -> f64 {
    let journal = dir.join("journal");
    let (truth, _) = JournalTruth::open(&journal).expect("the journal");
    let (index, _) = Embedded::open(&dir.join("alone"), &truth.records(), u64::MAX).expect("a new index");
    let mut records = Vec::new();
    let mut spent = 0.0;
    let mut reader = truth.records().read(0);
    while index.applied() < events {
        match reader.next().expect("more records").expect("a journal that can be read") {
            TruthItem::Record { record, .. } => records.push(record),
            other => panic!("{other:?}"),
        }
        if records.len() == 2000 || index.applied() + records.len() as u64 == events {
            let before = on_cpu_s();
            index.apply(index.applied(), &records).expect("the index takes it");
            spent += on_cpu_s() - before;
            records.clear();
        }
    }
    spent * 1e6 / events as f64
}

/// How long a page of a hundred events takes, cold blocks included: the median of some.
fn questions(dir: &Path, events: u64) {
    let number = std::fs::read_to_string(dir.join("index/current")).expect("there is one");
    let folder = dir.join("index").join(number.trim());
    let (journal, _) = Journal::open(&dir.join("journal")).expect("the journal");
    let (index, _) = Embedded::open(&folder, &TruthRecords::of(&journal), u64::MAX).expect("the index");
    let index = Arc::new(index);
    println!("opened at record {} of {events}", index.applied());
    let range = TimeRange { from: Time::UNIX_EPOCH, to: Time::MAX };
    let ask = |device: Option<u64>, kind: Option<&str>| EventQuery {
        kind: kind.map(str::to_owned),
        device: device.map(|n| DeviceId::new(format!("cam-{n:05}-1")).expect("an id")),
        box_id: None,
        range,
        order: Order::Newest,
        after: None,
        limit: 100,
    };
    let of_devices: Vec<EventQuery> = (0..9).map(|n| ask(Some(n * 97), None)).collect();
    let kinds: Vec<EventQuery> = (0..9).map(|_| ask(None, Some("camnet.status.v1"))).collect();
    for (name, queries) in [("index.page_of_device_ms", of_devices), ("index.page_of_kind_ms", kinds)] {
        let mut times: Vec<f64> = Vec::new();
        for query in &queries {
            let began = Instant::now();
            let page = index.events(query).expect("an answer");
            assert!(!page.events.is_empty(), "{query:?}");
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        figure(name, times[times.len() / 2], "ms", None, "lower", events);
    }
}

fn figure(name: &str, value: f64, unit: &str, aim: Option<f64>, better: &str, n: u64) {
    let value = (value * 1000.0).round() / 1000.0;
    println!("{name:<36} {value:>10} {unit:<10} aim {aim:?} ({better} is better)  n {n}");
    let line = json!({
        "name": name, "value": value, "unit": unit, "aim": aim, "better": better, "baseline": null, "n": n,
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench.jsonl");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    writeln!(file.expect("target/ can be written"), "{line}").expect("the disk takes a line");
}

fn folder_bytes(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry")) {
        let meta = entry.metadata().expect("a file's size");
        bytes += if meta.is_dir() { folder_bytes(&entry.path()) } else { meta.len() };
    }
    bytes
}

/// CPU time of this process so far, all threads, seconds.
fn cpu_s(stat: &str) -> f64 {
    let text = std::fs::read_to_string(stat).expect("Linux");
    let fields: Vec<&str> = text.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|f| f.parse::<u64>().expect("a number")).sum();
    // USER_HZ is 100 on every Linux that Rust runs on.
    ticks as f64 / 100.0
}

/// CPU time of this thread so far, seconds.
fn on_cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let ns: u64 = text.split_whitespace().next().and_then(|f| f.parse().ok()).expect("a number");
    ns as f64 / 1e9
}

fn rss_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).expect("Linux");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|f| f.parse().ok()).expect("a number");
    kib / 1024.0
}
